package export

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"text/template"
	"time"

	"dormouse/internal/fleet"
)

// machine is what a descriptor says of a virtual machine.
type machine struct {
	name             string
	memoryMiB, vcpus int
	capacity         int64 // of the disk, in bytes
	uefi             bool
}

func (m machine) check() error {
	switch {
	case !namePattern.MatchString(m.name):
		return fleet.InvalidField("name", "%q can't be a machine's name: use letters, digits, dots, dashes and underscores, at most 63", m.name)
	case m.memoryMiB < 1 || m.memoryMiB > 1<<24:
		return fleet.InvalidField("memory_mib", "a machine can't have %d MiB of memory", m.memoryMiB)
	case m.vcpus < 1 || m.vcpus > 1024:
		return fleet.InvalidField("vcpus", "a machine can't have %d processors", m.vcpus)
	}
	return nil
}

// ustarMax is the largest member of a tar in the one format that OVF admits, in bytes.
const ustarMax = 1<<33 - 1

// writeOVA writes an OVF package as one file (DSP0243, Open Virtualization Format
// Specification 1.1): a ustar archive of the descriptor, the manifest with digests and
// the disk, in that order, so that a reader knows what comes before it does. The machine has been checked.
func writeOVA(ctx context.Context, out io.Writer, vmdk string, m machine) error {
	f, err := os.Open(vmdk)
	if err != nil {
		return fmt.Errorf("reading the converted disk: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if err := copyContext(ctx, sum, f); err != nil {
		return fmt.Errorf("reading the converted disk: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("reading the converted disk: %w", err)
	}
	if size > ustarMax {
		return fleet.Errorf(fleet.KindInvalid, "the disk has %d bytes, and an OVA holds at most %d: export it as vmdk", size, int64(ustarMax))
	}
	descriptor, err := m.descriptor(size)
	if err != nil {
		return err
	}
	disk := m.name + "-disk1.vmdk"
	manifest := fmt.Sprintf("SHA256(%s.ovf)= %x\nSHA256(%s)= %s\n", m.name, sha256.Sum256(descriptor), disk, hex.EncodeToString(sum.Sum(nil)))
	tw := tar.NewWriter(out)
	for _, part := range []struct {
		name    string
		size    int64
		content io.Reader
	}{
		{m.name + ".ovf", int64(len(descriptor)), bytes.NewReader(descriptor)},
		{m.name + ".mf", int64(len(manifest)), bytes.NewReader([]byte(manifest))},
		{disk, size, f},
	} {
		h := &tar.Header{Name: part.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: part.size, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if err := copyContext(ctx, tw, part.content); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (m machine) descriptor(diskBytes int64) ([]byte, error) {
	var b bytes.Buffer
	err := descriptorTemplate.Execute(&b, map[string]any{
		"Name": m.name, "MemoryMiB": m.memoryMiB, "VCPUs": m.vcpus, "Capacity": m.capacity, "DiskBytes": diskBytes, "UEFI": m.uefi,
	})
	if err != nil {
		return nil, fmt.Errorf("writing the machine's descriptor: %w", err)
	}
	return b.Bytes(), nil
}

// The hardware is what VMware and VirtualBox both have, and the stock kernel drives:
//
//   - an IDE controller. Each has better ones, but none in common that Debian's cloud kernel
//     has a driver for (it has no AHCI and no LSI Logic). Subtype and addresses are as VirtualBox writes them;
//   - VMware's paravirtual network card. VirtualBox has none of this kind and none
//     in common that the stock kernel drives: choose its virtio-net there.
//
// Firmware is VMware's way to say it; VirtualBox has "Enable EFI" in its settings. Names are
// checked to need no escaping (machine.check).
var descriptorTemplate = template.Must(template.New("ovf").Parse(`<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <References>
    <File ovf:href="{{.Name}}-disk1.vmdk" ovf:id="file1" ovf:size="{{.DiskBytes}}"/>
  </References>
  <DiskSection>
    <Info>The disk of the machine</Info>
    <Disk ovf:capacity="{{.Capacity}}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>The network, which gives the machine its address by DHCP</Info>
    <Network ovf:name="default">
      <Description>The network, which gives the machine its address by DHCP</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{{.Name}}">
    <Info>A virtual machine</Info>
    <Name>{{.Name}}</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="otherLinux64Guest">
      <Info>Linux of 64 bits, or what boots as it does</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>What the machine has</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{{.Name}}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:Description>Number of virtual processors</rasd:Description>
        <rasd:ElementName>{{.VCPUs}} virtual processors</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>{{.VCPUs}}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:Description>Memory size</rasd:Description>
        <rasd:ElementName>{{.MemoryMiB}} MiB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>{{.MemoryMiB}}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:Description>IDE controller</rasd:Description>
        <rasd:ElementName>IDE controller 0</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>PIIX4</rasd:ResourceSubType>
        <rasd:ResourceType>5</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Hard disk 1</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>default</rasd:Connection>
        <rasd:Description>Network card</rasd:Description>
        <rasd:ElementName>Network card 1</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
{{- if .UEFI}}
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
{{- end}}
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`))
